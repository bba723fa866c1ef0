"""What tensor names mean: roles, blocks and depth, tied names, vocabulary rows, and how several models fit together."""
