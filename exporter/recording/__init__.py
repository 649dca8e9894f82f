"""Pure parts and tasks: one conversation as Phonic sent it, anonymised, to be played again."""
