package v2x

import (
	"math"

	"mooring/wire/its"
)

func placed(l its.TwoDLocation) bool {
	return l.Latitude != its.UnknownLatitude && l.Longitude != its.UnknownLongitude
}

// metres is the way between two places, on a sphere. Places that are not known are nowhere apart.
func metres(a, b its.TwoDLocation) float64 {
	if !placed(a) || !placed(b) {
		return 0
	}
	const radius = 6371e3
	rad := func(tenMicrodegree int32) float64 { return float64(tenMicrodegree) / 1e7 * math.Pi / 180 }
	la, lb := rad(int32(a.Latitude)), rad(int32(b.Latitude))
	dla, dlo := lb-la, rad(int32(b.Longitude))-rad(int32(a.Longitude))
	h := math.Sin(dla/2)*math.Sin(dla/2) + math.Cos(la)*math.Cos(lb)*math.Sin(dlo/2)*math.Sin(dlo/2)
	return 2 * radius * math.Asin(min(1, math.Sqrt(h)))
}
