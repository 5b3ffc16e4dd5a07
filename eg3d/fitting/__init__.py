"""Single-scene overfitting (EG3D, section 4.1): features optimized from posed views of one scene, with no generator."""
