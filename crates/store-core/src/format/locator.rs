//! Locators.
