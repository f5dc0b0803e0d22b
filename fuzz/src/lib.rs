//! What the targets have in common.

pub mod kubernetes;

/// Lets a panic of what others wrote pass, which the code under test catches; one of our own still ends the target.
pub fn forgive_others() {
    let end = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.location().is_some_and(|place| place.file().contains("/registry/src/")) {
            end(panic);
        }
    }));
}
