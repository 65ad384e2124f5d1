"""What one broker process owns: model and storage joined, and the one wait for durability."""
