"""x."""
LAWS_ASIDE = {"normalize": {"fixed_point", "identity", "shift"}}
