"""What the user asked for, as data: read, checked, and worked out for each tensor."""
