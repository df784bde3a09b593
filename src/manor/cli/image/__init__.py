"""`manor image`: what one does with disk images. A module for each command."""
