"""The human study: real people compare assistants; a web app, its store and its analysis (extra `study`)."""
