"""Review: the images most worth a label, a page to label them on, and the same for Label Studio."""
