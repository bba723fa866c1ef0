"""x."""
LAWS_ASIDE = {"scale": {"fixed_point", "identity", "shift"}}
