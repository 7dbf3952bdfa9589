//! stand-in until the load client is here
use clap::Args;
#[derive(Debug, Args)]
pub struct BenchArguments {}
pub(super) async fn run(_: BenchArguments) -> anyhow::Result<()> {
    Ok(())
}
