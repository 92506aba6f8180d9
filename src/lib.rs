//! syncraft
