"""Images and annotations: safe opening, COCO-style instances."""
