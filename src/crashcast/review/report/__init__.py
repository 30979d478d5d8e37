"""What a review shows: the record, its page, its comment, its text on a terminal."""
