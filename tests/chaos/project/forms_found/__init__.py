"""An application whose tasks are found by autodiscovery."""
