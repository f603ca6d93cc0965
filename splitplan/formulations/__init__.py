"""What "best" means: one problem a file, declarative, with its mathematics. Knows no solver."""
