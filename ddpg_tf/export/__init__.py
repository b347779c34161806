"""Policy -> verified, numbered SavedModel, as TensorFlow Serving loads it, live too; or its actor as LiteRT or ONNX."""
