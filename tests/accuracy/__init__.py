"""How true policyd's numbers are, measured on recorded traffic: `make accuracy`."""
