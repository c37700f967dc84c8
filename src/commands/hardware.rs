//! `llmlab hardware`: the devices of the catalogue, what is known of them and from where.

use llmlab_models::catalogue::{self, Figure, Hardware, Price, Pricing};
use serde::Serialize;

use crate::cli::{HardwareCommand, ListArgs, ShowArgs};
use crate::exit::{Code, Failure};
use crate::table::table;
use crate::text::print;

pub fn hardware(command: HardwareCommand) -> Result<Code, Failure> {
    match command {
        HardwareCommand::List(args) => list(&args),
        HardwareCommand::Show(args) => show(&args),
    }
}

fn list(args: &ListArgs) -> Result<Code, Failure> {
    if args.json {
        return print_json(catalogue::hardwares());
    }
    let rows: Vec<Vec<String>> = catalogue::hardwares().iter().map(row).collect();
    let heading = ["name", "kind", "GB", "GB/s", "bf16 TF", "fp8 TF", "link GB/s", "W", "$/h"];
    let text = table(&heading, &rows, &[2, 3, 4, 5, 6, 7, 8]);
    print(&format!("{text}\nllmlab hardware show NAME has every figure with its source.\n"))
}

fn row(device: &Hardware) -> Vec<String> {
    let figure = |figure: &Option<Figure>| figure.as_ref().map_or(String::new(), |of| of.value.to_string());
    let price = catalogue::price(&device.name).map_or(String::new(), |price| price.usd_per_hour.to_string());
    vec![
        device.name.clone(),
        device.kind.name().to_string(),
        figure(&device.memory_gb),
        device.memory_bandwidth_gb_per_s.value.to_string(),
        figure(&device.bf16_tflops),
        figure(&device.fp8_tflops),
        figure(&device.link_gb_per_s),
        figure(&device.tdp_w),
        price,
    ]
}

#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    device: &'a Hardware,
    prices: Vec<&'a Price>,
}

fn show(args: &ShowArgs) -> Result<Code, Failure> {
    let device = catalogue::hardware(&args.name).map_err(Failure::bad_input)?;
    let prices: Vec<&Price> = catalogue::prices_of(&device.name).map_err(Failure::bad_input)?.collect();
    if args.json {
        return print_json(&Shown { device, prices });
    }
    let mut text = format!("{}: {} ({})\n", device.name, device.description, device.kind.name());
    if !device.aliases.is_empty() {
        text += &format!("also {}\n", device.aliases.join(", "));
    }
    let figures = device.figures().into_iter().map(|(key, figure, _)| {
        let source = with_note(&figure.source, &figure.note);
        vec![
            key.into(),
            figure.value.to_string(),
            figure.confidence.name().into(),
            figure.date.clone(),
            source,
        ]
    });
    let heading = ["figure", "value", "confidence", "date", "source"];
    text += &format!("\n{}", table(&heading, &figures.collect::<Vec<_>>(), &[1]));
    if !prices.is_empty() {
        let rows = prices.iter().map(|price| {
            let pricing = match price.pricing {
                Pricing::Reserved => format!("reserved, {}", price.term),
                other => other.name().to_string(),
            };
            vec![
                pricing,
                price.usd_per_hour.to_string(),
                [price.provider.as_str(), &price.sku].join(" ").trim_end().to_string(),
                price.devices.to_string(),
                price.confidence.name().to_string(),
                price.date.clone(),
                with_note(&price.source, &price.note),
            ]
        });
        let heading = ["price", "$/h", "from", "devices", "confidence", "date", "source"];
        text += &format!("\n{}", table(&heading, &rows.collect::<Vec<_>>(), &[1, 3]));
    }
    print(&text)
}

fn with_note(source: &str, note: &str) -> String {
    if note.is_empty() { source.to_string() } else { format!("{source} ({note})") }
}

pub(super) fn print_json<T: Serialize + ?Sized>(value: &T) -> Result<Code, Failure> {
    print(&(serde_json::to_string_pretty(value).map_err(Failure::internal)? + "\n"))
}
