package message

// String names a reason in a word or two, for people and metrics; "" for none.
func (r Reason) String() string {
	names := [...]string{ReasonFarewell: "farewell", ReasonLost: "lost", ReasonProtocol: "protocol", ReasonTimeout: "timeout", ReasonTakenOver: "taken_over", ReasonCut: "cut", ReasonExpired: "expired",
		ReasonPolicy: "policy", ReasonDenied: "denied", ReasonRate: "rate", ReasonQuota: "quota", ReasonSlow: "slow", ReasonStopping: "stopping", ReasonFabric: "fabric"}
	if int(r) >= len(names) {
		return ""
	}
	return names[r]
}
