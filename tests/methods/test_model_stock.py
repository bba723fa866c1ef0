"""x."""
LAWS_ASIDE = {"floor": {"scale", "identity"}}
