//! The admin listener and its metrics.

mod admin;
mod calls;
mod dashboard;
mod limits;
mod program;
mod scrape_format;
mod uploads;
