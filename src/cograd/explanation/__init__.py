"""Who trains whom: which loss reaches which model, by how much, and where a gradient was cut."""
