"""Sessions that several people are in: who takes part, who types, who has to be there, and what latecomers see."""
