//! A client of the API over `unix://` and `http://`.
