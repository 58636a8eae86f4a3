"""What a detector finds in a folder, as one HTML page."""
