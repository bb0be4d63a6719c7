"""Files and objects wherever they are: folders, S3, Google Cloud Storage, HTTP, archives."""
