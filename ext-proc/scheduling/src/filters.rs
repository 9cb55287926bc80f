//! Who may: each filter keeps or removes candidates, with a reason.
