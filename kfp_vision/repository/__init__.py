"""Model repositories: numbered versions of a model in a folder or a bucket."""
