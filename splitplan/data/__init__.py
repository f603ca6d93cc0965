"""What is known: devices, links, systems, profiles, plans. Plain values; optimizes nothing, knows no torch."""
