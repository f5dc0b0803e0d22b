//! Metrics as Prometheus text. Every component records through the `metrics` facade; this is where it is rendered.
//!
//! Read `recorder.rs` (what was recorded), `process.rs` (what the kernel says of this process).

mod process;
mod recorder;

use std::sync::Arc;

use anyhow::Result;
use env::Metric;

use self::recorder::Recorder;

/// Renders metrics as Prometheus text.
pub type Render = Arc<dyn Fn() -> String + Send + Sync>;

/// Starts recording; what is returned renders what was recorded. To be called before the components that record are
/// built: they keep their handles.
///
/// # Errors
/// It was called before in this process.
pub fn install(tables: &[&[Metric]]) -> Result<Render> {
    let recorder = Recorder::new(tables);
    let kept = recorder.clone();
    metrics::set_global_recorder(recorder).map_err(|_| anyhow::anyhow!("metrics are recorded already"))?;
    Ok(Arc::new(move || {
        let mut text = kept.render();
        text.push_str(&process::render());
        text
    }))
}
