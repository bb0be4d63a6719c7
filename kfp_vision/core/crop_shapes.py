"""What a network sees of an image in evaluation and in use, before that is resized to a square."""

STRETCHED = "stretched"  # the central 87.5 % of each side: what is on the image loses its proportions
SQUARE = "square"  # the central square of 87.5 % of the shorter side
WHOLE = "whole"  # all of it, stretched: where images have several labels, what one of them names may be at an edge
