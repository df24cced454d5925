// Package policy says who may publish, subscribe and leave a will where, and how much of everything a connection may use.
//
// A policy is a text of groups. A thing belongs to the first group, in the order of the text, that fits what the registry knows of it; what the thing says
// of itself decides nothing. A group lists what is allowed; everything else is denied.
//
//	group meters {
//	    match profile=meter attr.site=*          # all of a line must fit; several lines: one of them must
//	    extends base                             # the settings and rules of another group come first
//	    connections 1   session_expiry 24h       # settings, any number on a line
//	    allow publish   v1/${thing}/telemetry/# max_qos 1 rate 10/s burst 50 size 16KiB
//	    allow publish   v1/${thing}/state retain yes
//	    allow subscribe v1/${thing}/cmd/+
//	    allow subscribe v1/site/${attr.site}/notice
//	    allow will      v1/${thing}/state retain yes
//	}
//
// The grammar, in which END is the end of a line, a semicolon, or the brace that closes the group:
//
//	policy    = { "group" NAME "{" { statement END } "}" }
//	statement = "match" ( "any" | "none" | condition { condition } )
//	          | "extends" NAME { NAME }
//	          | setting value { setting value }
//	          | "allow" ( "publish" | "subscribe" | "will" ) template { option value }
//	          | "allow" "act-for" "children" [ "both" ( "yes" | "no" ) ]
//	condition = attribute "=" pattern            # in which * stands for any run of characters
//	attribute = "name" | "group" | "profile" | "manufacturer" | "role" | "kind" | "attr." TAG
//
// A word may be put in double quotes, in which \" and \\ stand for these characters; a # that begins a word begins a comment, so the template of
// everything is "#". The settings and options are tables (settings.go, rule.go), and doc/policies.md explains each.
//
// A template is a topic filter (MQTT 5.0, section 4.7) in which ${thing}, ${client}, ${group}, ${profile}, ${manufacturer}, ${tenant}, ${child} and
// ${attr.TAG} stand for one level or a part of one. Where it differs from a filter: template/# is what lies below template, not template itself.
// A value that cannot stand in one level (CheckLevel), or that is a fixed word of another template at that place, makes the rule void; it never makes
// the rule wider. A filter that is subscribed to must lie in one template.
//
// Parse reads a text and tells all mistakes at once. Set.Compile makes Rights of one connection, which answer without allocating. The package is pure: it
// has no clock, socket or database, and it knows no topic root.
package policy
