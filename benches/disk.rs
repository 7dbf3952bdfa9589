//! The disk under retention, look by look. `cargo bench --bench disk`, or `-- --short`.
#![allow(clippy::print_stdout, clippy::cast_precision_loss, missing_docs, reason = "a bench")]

use tidegate::cli::bench::goals::disk::run;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|argument| argument == "--test") {
        return Ok(());
    }
    let total = if arguments.iter().any(|argument| argument == "--short") { 2_000_000 } else { 20_000_000 };
    let dir = tempfile::tempdir()?;
    println!("| events written | events/s | on disk MB | × what is kept | generations |");
    println!("|---|---|---|---|---|");
    let mut looks = Vec::new();
    run(dir.path(), total, |look| {
        let (rate, megabytes) = (look.events_per_second, look.bytes as f64 / 1e6);
        println!("| {} | {rate:.0} | {megabytes:.0} | {:.2} | {} |", look.written, look.ratio, look.generations);
        looks.push(look.ratio);
        Ok(())
    })?;
    let full = &looks[looks.len() / 4..];
    let (least, most) =
        full.iter().fold((f64::INFINITY, 0.0_f64), |(least, most), ratio| (least.min(*ratio), most.max(*ratio)));
    println!("after the first quarter {least:.2} to {most:.2} × what is kept");
    Ok(())
}
