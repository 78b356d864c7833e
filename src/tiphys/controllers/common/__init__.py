"""What several controllers share: reading pods, owning objects, making and deleting pods."""
