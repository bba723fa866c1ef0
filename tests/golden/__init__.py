"""Numbers from the authors' own code and from mergekit, each with its tolerance."""
