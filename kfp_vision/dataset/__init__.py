"""Data sets: import files, annotations, the table of images, validation and splits."""
