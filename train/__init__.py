"""How weights come to be: stages, loop, losses, data, teacher."""

__part_of__ = "agevlm"
