"""Labels that a person gives or corrects: which to check, what to ask, and the answers; what more labels would gain."""
