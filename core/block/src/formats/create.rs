//! Making images of any format.
