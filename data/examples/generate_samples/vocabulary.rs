//! The harbours, and the words of `words.txt`. Early words of a list are used more often than late ones.

use std::sync::LazyLock;

/// A harbour.
pub struct Place {
    pub name: &'static str,
    pub country: &'static str,
    pub region: &'static str,
    pub lat: f64,
    pub lon: f64,
}

const fn place(name: &'static str, country: &'static str, region: &'static str, lat: f64, lon: f64) -> Place {
    Place { name, country, region, lat, lon }
}

pub static PLACES: [Place; 48] = [
    place("Bergen", "Norway", "North Sea", 60.4, 5.3),
    place("Tromsø", "Norway", "Barents Sea", 69.6, 18.9),
    place("Ålesund", "Norway", "Norwegian Sea", 62.5, 6.2),
    place("Lerwick", "Scotland", "North Sea", 60.2, -1.1),
    place("Stornoway", "Scotland", "Minch", 58.2, -6.4),
    place("Peterhead", "Scotland", "North Sea", 57.5, -1.8),
    place("Grimsby", "England", "North Sea", 53.6, -0.1),
    place("Whitby", "England", "North Sea", 54.5, -0.6),
    place("Newlyn", "England", "Celtic Sea", 50.1, -5.5),
    place("Brixham", "England", "English Channel", 50.4, -3.5),
    place("Killybegs", "Ireland", "North Atlantic", 54.6, -8.4),
    place("Dingle", "Ireland", "Celtic Sea", 52.1, -10.3),
    place("Brest", "France", "Bay of Biscay", 48.4, -4.5),
    place("Lorient", "France", "Bay of Biscay", 47.7, -3.4),
    place("Vigo", "Spain", "North Atlantic", 42.2, -8.7),
    place("Cádiz", "Spain", "Gulf of Cádiz", 36.5, -6.3),
    place("Peniche", "Portugal", "North Atlantic", 39.4, -9.4),
    place("Horta", "Portugal", "Azores", 38.5, -28.6),
    place("Tórshavn", "Faroe Islands", "Norwegian Sea", 62.0, -6.8),
    place("Reykjavík", "Iceland", "Denmark Strait", 64.1, -21.9),
    place("Akureyri", "Iceland", "Greenland Sea", 65.7, -18.1),
    place("Nuuk", "Greenland", "Davis Strait", 64.2, -51.7),
    place("Esbjerg", "Denmark", "North Sea", 55.5, 8.4),
    place("Gothenburg", "Sweden", "Kattegat", 57.7, 11.9),
    place("Turku", "Finland", "Baltic Sea", 60.4, 22.2),
    place("Gdynia", "Poland", "Baltic Sea", 54.5, 18.5),
    place("Chioggia", "Italy", "Adriatic Sea", 45.2, 12.3),
    place("Piraeus", "Greece", "Aegean Sea", 37.9, 23.6),
    place("St. John's", "Canada", "Grand Banks", 47.6, -52.7),
    place("Halifax", "Canada", "Scotian Shelf", 44.6, -63.6),
    place("Gloucester", "United States", "Gulf of Maine", 42.6, -70.7),
    place("New Bedford", "United States", "Georges Bank", 41.6, -70.9),
    place("Kodiak", "United States", "Gulf of Alaska", 57.8, -152.4),
    place("Astoria", "United States", "North Pacific", 46.2, -123.8),
    place("Monterey", "United States", "North Pacific", 36.6, -121.9),
    place("Valparaíso", "Chile", "South Pacific", -33.0, -71.6),
    place("Ushuaia", "Argentina", "Southern Ocean", -54.8, -68.3),
    place("Mar del Plata", "Argentina", "South Atlantic", -38.0, -57.5),
    place("Cape Town", "South Africa", "Benguela Current", -33.9, 18.4),
    place("Walvis Bay", "Namibia", "Benguela Current", -22.9, 14.5),
    place("Dakar", "Senegal", "North Atlantic", 14.7, -17.4),
    place("Mombasa", "Kenya", "Indian Ocean", -4.0, 39.7),
    place("Kochi", "India", "Arabian Sea", 9.9, 76.3),
    place("Busan", "South Korea", "Sea of Japan", 35.1, 129.0),
    place("Hakodate", "Japan", "Tsugaru Strait", 41.8, 140.7),
    place("Hobart", "Australia", "Tasman Sea", -42.9, 147.3),
    place("Nelson", "New Zealand", "Tasman Sea", -41.3, 173.3),
    place("Bluff", "New Zealand", "Southern Ocean", -46.6, 168.3),
];

/// The lists of `words.txt`: a line each, with its name, a colon, and words between commas.
pub static LISTS: LazyLock<Vec<(&str, Vec<&str>)>> = LazyLock::new(|| {
    let list = |line: &'static str| line.split_once(": ").map(|(name, words)| (name, words.split(", ").collect()));
    include_str!("words.txt").lines().filter_map(list).collect()
});
