"""Policy -> verified, numbered SavedModel, as TensorFlow Serving loads it; published while training goes on."""
