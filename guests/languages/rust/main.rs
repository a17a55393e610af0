//! A program in Rust. With a listener (LISTEN_FDS) it serves lines by std's TcpListener: every line
//! comes back with its number, QUIT ends it. Otherwise it computes, with collections, strings,
//! sorting, closures and trait objects, and prints what that comes to: `rust ROUNDS`.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::wasi::io::FromRawFd;

fn serve() -> std::io::Result<()> {
    // SAFETY: descriptor 3 is the listener that the environment announces.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    let mut count = 0u64;
    for stream in listener.incoming() {
        let mut stream = BufReader::new(stream?);
        let mut line = String::new();
        while stream.read_line(&mut line)? > 0 {
            count += 1;
            write!(stream.get_mut(), "{count} {line}")?;
            if line.starts_with("QUIT") {
                return Ok(());
            }
            line.clear();
        }
    }
    Ok(())
}

trait Shape {
    fn area(&self) -> f64;
}
struct Square(f64);
struct Circle(f64);
impl Shape for Square {
    fn area(&self) -> f64 {
        self.0 * self.0
    }
}
impl Shape for Circle {
    fn area(&self) -> f64 {
        3.0 * self.0 * self.0
    }
}

fn mix(sum: u32, value: u32) -> u32 {
    (sum ^ value).wrapping_mul(16777619)
}

fn round(seed: u32) -> u32 {
    let mut random = seed.wrapping_mul(2654435761) | 1;
    let mut draw = |below: u32| {
        random = random.wrapping_mul(1664525).wrapping_add(1013904223);
        (random >> 8) % below
    };
    let mut sum = 2166136261;
    let mut by_name: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut hashed: HashMap<u32, u32> = HashMap::new();
    for i in 0..200 {
        by_name.entry(format!("n{}", draw(40))).or_default().push(i);
        *hashed.entry(draw(50)).or_default() += i;
    }
    for (name, list) in &by_name {
        sum = name.bytes().fold(sum, |sum, byte| mix(sum, byte.into()));
        sum = mix(sum, list.iter().sum());
    }
    let mut pairs: Vec<(u32, u32)> = hashed.into_iter().collect();
    pairs.sort_by_key(|(key, value)| (std::cmp::Reverse(*value), *key));
    sum = pairs.iter().fold(sum, |sum, (key, value)| mix(sum, key ^ value));
    let shapes: Vec<Box<dyn Shape>> = (0..50)
        .map(|i| -> Box<dyn Shape> {
            let side = f64::from(draw(64)) / 4.0;
            if i % 3 == 0 { Box::new(Circle(side)) } else { Box::new(Square(side)) }
        })
        .collect();
    sum = mix(sum, shapes.iter().map(|shape| shape.area()).sum::<f64>() as u32);
    let mut window = VecDeque::new();
    for i in 0..100u64 {
        window.push_back(i * i);
        if window.len() > 7 {
            window.pop_front();
        }
        sum = mix(sum, window.iter().sum::<u64>() as u32);
    }
    let text = format!("{sum:x} {:?} {:.3}", pairs.first(), f64::from(sum) / 7.0);
    match text.split(' ').map(str::parse::<i32>).collect::<Result<Vec<_>, _>>() {
        Ok(_) => sum,
        Err(error) => error.to_string().bytes().fold(sum, |sum, byte| mix(sum, byte.into())),
    }
}

fn main() {
    if std::env::var_os("LISTEN_FDS").is_some() {
        if let Err(error) = serve() {
            eprintln!("{error}");
            std::process::exit(1);
        }
        return;
    }
    let rounds = std::env::args().nth(1).and_then(|rounds| rounds.parse().ok()).unwrap_or(1);
    let sum = (0..rounds).fold(0u32, |sum, i| sum.wrapping_mul(31).wrapping_add(round(i)));
    println!("rounds {rounds}, checksum {sum:08x}");
}
