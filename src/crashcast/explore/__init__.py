"""Look at the data: tables as frames, pictures of servers, and the page of `crashcast explore`."""
