"""The model server: KServe's V1 and Open Inference protocols, a multipart form, image search, gRPC and a web page."""
