"""Pictures, panels, animations and tables of results."""
