"""Statistics: what a method needs and one slice cannot show."""
