"""A deterministic simulation of an election: real electors, a model of the rest of the world."""
