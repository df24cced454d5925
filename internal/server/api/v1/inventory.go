package v1

import "time"

// DeviceCount is how many devices pass a filter.
type DeviceCount struct {
	Count int64 `json:"count" doc:"How many" example:"41230"`
	Exact bool  `json:"exact" doc:"Whether that is exact. What was changed within the last seconds by another node may be missing" example:"true"`
}

// Forecast says how many certificates are to be renewed when.
type Forecast struct {
	Overdue int64  `json:"overdue" doc:"Due before the first span, or expired" example:"3"`
	Spans   []Span `json:"spans" doc:"Spans of time without gaps, from the present one on"`
	Later   int64  `json:"later" doc:"Due after the last span" example:"81000"`
	Never   int64  `json:"never" doc:"Without an end, or of a profile that is gone" example:"0"`
}

// Span is one column of a forecast.
type Span struct {
	From time.Time `json:"from" doc:"When it begins"`
	Due  int64     `json:"due" doc:"How many certificates fall due in it" example:"512"`
}
