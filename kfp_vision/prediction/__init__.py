"""The exported model: writing it, and predictions in this process or over HTTP."""
