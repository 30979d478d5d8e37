"""Which crashes really happened: several sources say so, disagree and are late; here their votes become one account."""
