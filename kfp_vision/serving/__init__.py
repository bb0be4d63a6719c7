"""The server: a model repository behind KServe's V1 and Open Inference Protocol, a multipart form, and a page for people."""
