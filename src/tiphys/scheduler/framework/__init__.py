"""The scheduling framework: the contract between the scheduler and its plugins, and what runs them."""
